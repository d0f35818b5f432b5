"""``tidegate top``: what sidecars and their Tritons do just now, kept current in a terminal.

Two scrapes of their metrics make a view: counters become rates, histograms the quantiles of what
came in between.
"""
