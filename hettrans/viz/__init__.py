"Widgets and drawings; anywidget is imported only here"
