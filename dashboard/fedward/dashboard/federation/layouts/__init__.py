"""What stands on the pages of a federation, on whatever sheet: a sentence that answers the page's question, then figures, charts,
the tables behind. No Streamlit: the same layouts make the monitor's pages and the static report.
"""
