"""A model's card: what it is for and not for, on whom it was trained and measured, what it promises, and what nobody knows of it.

`facts` makes it from the record alone, and `pages` writes it as one HTML file or as Markdown; the same record gives the same bytes.

    facts        the whole card as data
    performance  metrics, groups, gaps: what may be shown of them
    promises     the privacy statement, and what was spent
    training     how it was trained, in words
    limits       what it must not be trusted for
    tripod       which items of TRIPOD+AI it covers, and where
    words        figures and texts as they are shown
    plots        the calibration plot as SVG
    pages        HTML and Markdown
"""
