"""What any workload of rows can be learned with: layers, learning by task, trees beside a network, default networks.

A workload's `model` part takes a network whole (`classes`, `quantity`), or builds its own of the layers (`layers`) on
`network.ClassNetwork` or `network.QuantityNetwork`. Everything here imports torch: servers do without.
"""
