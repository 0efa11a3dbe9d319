"""What commands take: measures of tables of wells for `analysis.evaluate`, and the options of `analysis.fit`."""
