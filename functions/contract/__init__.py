"""What all parts of a run agree on: events, rank infos, accuracy, prices, limits, trust in foreign text.

Every function's folder has a link to this one, so that each is a Lambda by itself. It needs the standard
library and boto3 alone.
"""
