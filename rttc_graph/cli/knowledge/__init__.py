"""How people look at the samples of the knowledge base and change them, command by command.

`rttc kb` joins the functions of these modules; what they do lies in `rttc_graph.samples`.
"""
