"""The pages that people look at: HTML that loads nothing from elsewhere, with images in a folder beside it."""
