"""The monitor of a federation: a coordinator's record, looked at and never changed.

place     what `--store` names
reading   the record, read incrementally
views     what it comes to: frames and sentences, pure
charts    frames as pictures, and in words
pages     lay out views and charts; Streamlit is here alone
"""
