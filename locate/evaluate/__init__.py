"""One evaluation that judges bias and knowledge of any causal language model, before and after an edit."""
