"""The web page: a server beside the runs, which reads what they publish and asks for things as any controller does.

It needs what `pip install '.[ui]'` brings. Nothing of it runs in a training.
"""
