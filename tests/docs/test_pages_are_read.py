"""What the runner of the pages sees of them: blocks and commands."""

from __future__ import annotations

from pathlib import Path

from pages import blocks, commands

PAGE = '''
Text with `code`.

```python title="mine.py"
text = """
~~~
"""
```

- a list

    ```sh
    servax purify a.wav \\
        -o 'b c.wav'   # a comment
    ```

````md
```python
inside = True
```
````

```{.python .wide}
--8<-- "examples/add_attack.py"
```
'''


def test_blocks_of_a_page(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(PAGE, encoding="utf-8")
    python, shell, markdown, snippet = blocks(tmp_path / "page.md")
    assert (python.language, python.file, python.line) == ("python", "mine.py", 4)
    assert python.text == 'text = """\n~~~\n"""\n'
    assert (shell.language, shell.file) == ("sh", None)
    assert shell.text.startswith("servax purify")
    assert markdown.text == "```python\ninside = True\n```\n"
    assert (snippet.language, snippet.snippets) == ("python", ["examples/add_attack.py"])


def test_commands_of_a_block() -> None:
    text = """
M=runs/a; S="two words"
servax audit $M/fold-1 --defences x=${M}b,y \\
  --labels 'a b'   # servax nothing
A=1 servax one && servax two "$S" > out.txt; servax three | head -n 2
(umask 077; openssl rand > "$S")
curl -H "Bearer $(cat tokens)"
"""
    assert list(commands(text)) == [
        ["servax", "audit", "runs/a/fold-1", "--defences", "x=runs/ab,y", "--labels", "a b"],
        ["servax", "one"],
        ["servax", "two", "two words", ">", "out.txt"],
        ["servax", "three"],
        ["head", "-n", "2"],
        ["umask", "077"],
        ["openssl", "rand", ">", "two words"],
        ["curl", "-H", "Bearer $(cat tokens)"],
    ]
