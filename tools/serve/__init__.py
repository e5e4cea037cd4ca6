"""A finished run behind HTTP: OpenAI's chat completions and images, and a page.

limits     how much one request may ask for, and the requests that wait for the model
messages   bodies of requests, as parts of prompts
api        the endpoints
page       the page, in Gradio
command    what `python -m tools serve` does
"""
