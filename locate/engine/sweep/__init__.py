"""The exact sweep: every patched run from the layer and the position where it begins to differ.

A row is one patched run. Up to its first write it is its base run, which has been run once for all rows. From there on

1.  no layer below the write is run again: the row starts from the base run's residual stream at that layer;
2.  no position before the write is run again: attention is causal, so they keep the base run's keys and values;
3.  rows that begin at the same position climb the layers together, a *staircase*: at each layer those that begin there
    join the ones already under way, and every block is called once for all of them;
    a row that is written after the attention leaves that layer changed at one position, and rows that are written at
    different positions there share a run of the layer;
4.  in the last layer only the last position is read, so the others stop at their keys and values;
5.  a row whose writes change nothing (what is written equals what stands there, or cannot reach the last token) is not
    run;
6.  in fp32, blocks laid out as GPT-2's or Llama's are run in few steps over memory and without hooks where nothing but
    their outputs is written, provided that they give a base run the model's own numbers;
7.  such blocks take two batches of rows at once on a CPU, with half of the threads each.

Nothing is approximated: in a causal model whose blocks pass on one residual stream, and nothing else but keys and
values, each row's numbers are those of a run at full depth, up to rounding. Every trace checks some of its rows.
"""

from locate.engine.sweep.stairs import measure

__all__ = ["measure"]
