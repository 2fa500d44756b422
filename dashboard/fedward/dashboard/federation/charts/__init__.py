"""Charts of a study, each with what it says in words. A chart names series and never a colour: colours are the theme's."""
