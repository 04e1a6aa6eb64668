"""The commands of ``subkern`` that have options of their own, and the options they share."""
