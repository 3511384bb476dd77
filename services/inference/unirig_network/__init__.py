"""The UniRig network (Zhang et al., SIGGRAPH 2025) in plain PyTorch; it runs inside Triton.

Nothing is imported here, so that the tokenizer and the grammar can be had without torch.
"""
