"""Private parts of the verdict memory."""
