from hettrans import fit, open_dataset

shop = open_dataset("marketplace", users=300, items=200)         # a simulated shop; or a folder of your own
print(f"{len(shop.users)} users, {len(shop.items)} items, {len(shop.interactions)} behaviours")

runs = {name: fit(name, shop, preset="shop" if name == "heterrec" else "auto", bar=False)
        for name in ("popularity", "item-graph", "heterrec")}
for name, run in runs.items():
    print(f"{name:<12}recall@10 {run.metrics['recall@10']:.2f}")

user = shop.users["user_id"].iloc[0]                             # somebody in the data; a list of items would do as well
past = shop.interactions[shop.interactions["user_id"] == user].tail(3)["item_id"]
print("\nlast taken  ", *shop.items.set_index("item_id").loc[past, "title"], sep="\n  ")
print("\nrecommended ", *runs["heterrec"].recommend(user, k=3)["title"], sep="\n  ")
