"""Floor of the cold open: a bare page that imports torch and shows one Plotly chart."""

import plotly.graph_objects as go
import streamlit as st
import torch

values = torch.linspace(0, 1, 8)
st.plotly_chart(go.Figure(go.Bar(y=values.numpy())), key="chart")
