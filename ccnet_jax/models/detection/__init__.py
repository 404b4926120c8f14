"""Detection of instances: boxes, anchors, matching, suppression, RoIAlign. All shapes are static.

A list of boxes or objects has a fixed length; a mask says which of its places are used.
"""
