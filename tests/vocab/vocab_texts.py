"""Sentences that the vocabulary tests train on, learn from and encode."""

ENGLISH = [
    "The river runs past the old mill, and the children who live there know every stone of it.",
    "def add(a: int, b: int) -> int:\n    return a + b  # 3 + 4 == 7\n",
    "She said: “don't!” — and left; 12,345 people (or more) had seen it… 🙂🎉 naïve café",
]
CHINESE = [
    "我们没有时间，因为今天的天气很好，可以出去走走。我们可以去公园看花，也可以去河边看水。",
    "没有什么比自己的家更好。如果天气不好，我们就没有办法出去，只可以在家里看书、喝茶。",
    "时间过得很快，转眼已经是秋天了。公园里的树叶变黄了，河边的水也凉了，可是天气还很好。",
]
WITHOUT_HAN = [
    *ENGLISH,
    "。，「」！？…——、　です カタカナ한국어 ☯䷀䷿ éü ßþ ©®¶ 🇨🇳👩‍👩‍👧 \u0e01\u0e02 \ufeff\u200b",
    "".join(chr(code) for code in range(0x80, 0x2E80, 7)),
    "<|start|>user\nhi<|end|>",
]
MIXED = "We said 你好 (hello)！我们可以 meet at 10:30 in the 公园 — 没有问题? 🙂 の カタカナ 한국어 ☯䷀ naïve 𠀀㐀豈"
