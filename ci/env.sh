# Sourced by the other scripts, from the root of the repository.
if [ -d .deps/venv/bin ]; then
  case ":$PATH:" in
    *":$PWD/.deps/venv/bin:"*) ;;
    *) PATH="$PWD/.deps/venv/bin:$PATH" ;;
  esac
fi
