# SPDX-License-Identifier: Apache-2.0
"""What can be chosen on a command line of an analysis; nothing else is imported for it."""

# Forms of tables.
FORMATS = ("text", "markdown", "csv")
# What classes are sorted by -> the counts, and how they are called. A region is all pixels of a
# class in one image, so that a class has as many regions as images.
FREQUENCIES = {
    "pixels": ("pixels", "training pixels"),
    "regions": ("images", "training regions"),
    "images": ("images", "training images"),
    "instances": ("instances", "training instances"),
}
