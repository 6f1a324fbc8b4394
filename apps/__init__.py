"""The Gradio apps over what hfkit makes. They import hfkit and rag; nothing imports them."""
