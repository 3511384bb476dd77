"""What surrounds UniRig's networks: from a mesh to their inputs, and from their outputs to a rig.

UniRig: Zhang et al., "One Model to Rig Them All: Diverse Skeleton Rigging with UniRig", SIGGRAPH
2025. Everything here runs on the CPU in NumPy and SciPy; the networks run elsewhere.
"""
