"""`make bench`: Opsin and its peers, loaded in turns, and the page of the results."""
