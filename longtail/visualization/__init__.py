# SPDX-License-Identifier: Apache-2.0
"""Pictures of label maps: painting them, comparing them, laying the pictures out."""
