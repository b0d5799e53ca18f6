"""Who may do what: keys, tenants, roles, and the limits of each."""
