"""The proxy: the only package that talks to the network and to users."""
