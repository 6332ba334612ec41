"""Users' ONNX files, read in a process of their own, within limits, and never trusted.

operators.py  the operators that a graph may have
reading.py    a file's graph: what it holds, and why it is refused
choosing.py   which input takes which tensor, and which output becomes which column
trial.py      the graph run by onnxruntime on random objects: its shapes, and that none affects another
writing.py    what is needed of the graph, as the files that ranks run
child.py      all of this, in the process of its own
asking.py     that process, from outside: its limits and its answer
"""
