"""One class for each method of translation, all with the same verbs."""
