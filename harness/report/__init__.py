"""Records and projections as tables, Markdown and HTML; nothing here touches a device."""
