echo "{{ params.word }} from a template file"
