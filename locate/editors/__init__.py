"""Editors: what was located is changed, and the change proved.

An editor is an object with a `method` and an `edit` (see `locate.editors.methods.Editor`); each method has a file here.
"""
