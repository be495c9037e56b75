"""Editors change what was located, and prove what they changed.

An editor is an object with a `method` and an `edit` (see `locate.editors.methods.Editor`); each method has a file here.
"""
