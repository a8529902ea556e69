"""Numbers -> pictures. Numpy in, Plotly or SVG out; neither torch nor Streamlit."""
