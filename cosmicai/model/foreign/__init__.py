"""Users' checkpoints, read without their code and without trust.

files.py       a file's content: what is pickled in it, or its tensors by name
candidates.py  which networks a content holds, under which keys
classes.py     the classes that a network may be made of, and what each of their attributes means
nodes.py       a stored module, of which everything must be accounted for by classes.py
modules.py     a stored whole module as a Network
names.py       a state dict as a Network; what it does not record is given by the user or assumed
roles.py       which stack of layers is which, by shapes, if names do not say
network.py     a Network: weights, and all that changes a result; as our model
expected.py    compares the imported network with outputs of the user's own code
"""
