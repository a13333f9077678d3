"""What a chart of a plan needs: memory over the steps, what lies where in each, and the page that draws it."""
