"""Proof of a recommendation: fine-tune what the kernels judged, and set the two side by side."""
