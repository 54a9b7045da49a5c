"""Training of the vision model: from a dataset folder to `ppe.onnx`.

Needs the dependency group `training`; nothing of the product imports it. See `README.md` here.
"""
