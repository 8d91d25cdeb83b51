# Sourced by the other scripts, from the root of the repository.
if [ -d .deps/venv/bin ]; then
  case ":$PATH:" in
    *":$PWD/.deps/venv/bin:"*) ;;
    *) PATH="$PWD/.deps/venv/bin:$PATH" ;;
  esac
fi

# The example of README's section "In Python".
readme_example() { awk '/^### In Python/ { here = 1 } here && /^```python/ { inside = 1; next } inside && /^```/ { exit } inside' README.md; }
