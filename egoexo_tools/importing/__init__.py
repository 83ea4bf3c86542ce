"""Imports of data that other tools wrote: pictures, masks, processed folders, predictions."""
