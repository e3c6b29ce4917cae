"""The page that `rttc serve` shows at `/`: files for a browser, and no modules.

uPlot (MIT) is packaged as it was released; everything else is written here, as plain ES modules.
"""
