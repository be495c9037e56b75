"""One evaluation that judges bias and knowledge of any causal language model, before and after an edit.

A test that reads published data has its reader in the file beside it: `bbq.py` is the test, `bbq_data.py` the reader.
"""
