"""The mistakes that Istio takes without a word, found in manifests before they are applied.

Pure: documents in, findings out. Each rule is one function beside its own text (`rules_*.py`), from
which the reference page is made. What the API server or `istioctl validate` refuses does not belong
here, nor does reading files.
"""
