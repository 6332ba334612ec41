"""What all parts of a run agree on: events, rank infos, accuracy, prices, limits, and how to read foreign text.

Every function's folder has a link to this one, so that each is a Lambda by itself. It needs only the standard
library and boto3.
"""
