"""What changes in the kernel, as the keys of what may have suffered.

suspects        the answer: keys, and what stands for several of them
rtnetlink       notifications of links, addresses, routes, rules, neighbours and settings
proxies         proxy neighbours, for which the kernel sends none
nftables        notifications of our nft tables
table_cache     our nft tables as last read, until a notification says that they have changed
senders         which of all this was our own doing

Nothing is parsed beyond what a key needs. Whether anything is wrong is for the listener to find out.
"""
