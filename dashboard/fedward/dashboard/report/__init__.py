"""The static report: what the monitor shows, as one HTML file for whoever has no monitor. It runs nothing and fetches nothing.

paper       a sheet that collects what a layout says (`fedward.dashboard.sheet`)
svg         a chart as SVG; the only door of vl-convert
theme       the monitor's colours for charts outside Streamlit
contents    a report as data: its head, its sections
federation  the report of a study in a coordinator's record
run         the report of a simulated run's folder
pages       a report as HTML
"""
