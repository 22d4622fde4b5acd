# SPDX-License-Identifier: Apache-2.0
"""Distribution Alignment (DisAlign): calibrate a frozen model in a second stage.

Nothing is imported here, so that the commands answer at once.
"""
