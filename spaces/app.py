"""The page as a Hugging Face Space, which sends visitors to port 7860."""

from unified_sess.app.server import serve

serve([], host="0.0.0.0", port=7860, max_size=100)
