# SPDX-License-Identifier: Apache-2.0
"""Label-aware smoothing (Zhong et al., CVPR 2021): frequent classes get softer labels."""
