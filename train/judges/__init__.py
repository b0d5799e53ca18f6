"""Judges: was the request harmful, is the reasoning unsafe, is the answer, was it refused, did it help?"""
