"""Figures for people: what was asked for, shown, clicked and earned."""
