"""Everything that knows Streamlit: the frame, the kit of components, the view and its link.

state      ViewState and the query string (pure)
language   the two language tables, the glossary, safe markup (pure)
chapters   the table of chapters, one row per page file
components the app's own browser components
frame      the shell drawn around every page, called by app.py
kit        what pages are built from; pages import nothing else
"""
